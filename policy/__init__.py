"""Are they allowed, and what may be in it? Pure: profiles, rules, key and name rules, lints."""
