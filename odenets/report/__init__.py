"""What a person looks at after a run: tables and plots."""
