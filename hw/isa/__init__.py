"""The instruction set as data. Standard library only, so that documents and generators load it in milliseconds."""
