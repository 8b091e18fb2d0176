"""The vocabulary: pure values that every floor above shares. Nothing here does I/O."""
