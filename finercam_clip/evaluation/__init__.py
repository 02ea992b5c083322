"""How good maps and scores are, measured against a known answer."""
