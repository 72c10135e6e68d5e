"""What developers run from the Makefile; none of it is installed with the distribution."""
