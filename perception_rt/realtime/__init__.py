"""Clock, fixed-rate scheduler, mailbox, frame ledger, statistics; standard library only."""
