"""Files: what is written of a run and how it is read again, so that no kill and no damaged disk goes unnoticed."""
