"""Training recipes: YAML files to list, show, copy and own. See README.md beside this file."""
