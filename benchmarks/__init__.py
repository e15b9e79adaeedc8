"""Speed and memory, side by side in one run; never asserted in tests."""
