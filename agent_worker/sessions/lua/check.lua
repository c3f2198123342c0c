-- ARGV: none -> {'OK'}: the session exists and is the principal's
return refusal() or { 'OK' }
