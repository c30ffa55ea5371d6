"""AdvertiseGen, fetched and verified."""
