"""The command line. A package, so that these files may be named as others in other folders."""
