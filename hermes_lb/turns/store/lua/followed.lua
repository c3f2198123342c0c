-- -> 1 if a follower at any balancer has a lease (read.lua)
local followed = redis.call('HGET', KEYS[1], 'followed')
return followed and tonumber(followed) > tonumber(redis.call('TIME')[1]) and 1 or 0
