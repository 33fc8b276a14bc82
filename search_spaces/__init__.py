"""What a search may vary: pure data, without ray and without torch."""
