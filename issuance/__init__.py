"""In which order is it done? The pipeline, its ledger, audit, revocation, and the sweeper."""
