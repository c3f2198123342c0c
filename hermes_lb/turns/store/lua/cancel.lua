-- A client wants it to end -> as it stands then.
local turn = read_turn()
if not turn then
  return { 'UNKNOWN', {} }
end
local wakes = {}
if turn.state == WAITING then
  wakes = has_ended(turn, CANCELLED, false)
  wakes[#wakes + 1] = turn.incarnation .. ' ' .. ID
elseif can_enter(turn, CANCELLING) then
  redis.call('HSET', TURN, 'state', CANCELLING)
  wakes[1] = turn.incarnation .. ' ' .. ID
end
return { 'FOUND', record_of(TURN), wakes }
