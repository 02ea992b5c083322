"""The page in the browser. A package, so that these files may be named as others in other folders."""
