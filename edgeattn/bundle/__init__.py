"""Bundles: the engine files an app loads, the portable graphs they came from, and a manifest that vouches for both."""
