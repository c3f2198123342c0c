-- The record of a turn; the caller compares the principal, known or not.
return { 'FOUND', record_of(TURN), {} }
