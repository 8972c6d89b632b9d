"""Reading, checking, augmenting and generating 2D ultrasound data."""
