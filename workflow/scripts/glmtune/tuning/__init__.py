"""The tuning methods: what each trains, how it is saved and restored, how much memory it needs."""
