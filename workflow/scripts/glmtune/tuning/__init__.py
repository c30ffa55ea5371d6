"""The tuning methods: what each trains, how it is saved and restored, what memory it takes."""
