"""An index in a folder, searched by FAISS."""
