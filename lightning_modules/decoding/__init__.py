"""Decoders: one step after another with the real tool, on the host or on the device."""
