"""Files: what is written of a run and how it is read again, so that neither a kill nor a damaged disk goes unnoticed."""
