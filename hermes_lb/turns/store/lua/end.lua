-- The owner ends it: state, reason, first and last number of the journal, bytes that it keeps, and
-- whether it has lost its beginning.
local STATE, REASON, FIRST, LAST, BYTES, IS_TRIMMED = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7],
  tonumber(ARGV[8]), ARGV[9]
local turn = read_own()
if turn and turn.state == STATE then
  return { 'OK', {} }
end
if turn and STATE == CANCELLED and can_enter(turn, CANCELLING) then
  turn.state = CANCELLING -- its last client has left, and none has asked before
end
if not turn or not can_enter(turn, STATE) or turn.state == WAITING then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'reason', REASON, 'first', FIRST, 'last', LAST)
local wakes = has_ended(turn, STATE, true)
if BYTES > 0 then
  local kept_until = tonumber(redis.call('HGET', TURN, 'kept_until'))
  if kept_until > NOW then
    count_bytes(BYTES, kept_until - NOW)
  end
end
if IS_TRIMMED == '1' then
  redis.call('HSET', TURN, 'kept_until', '0')
end
return { 'OK', wakes }
