"""Fetches and verifies AdvertiseGen."""
