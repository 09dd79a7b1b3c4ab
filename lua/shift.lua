-- shift: the clock of Redis has stepped, and the pool's clock does not follow it.
--
-- Guarantee: a step counts once, whichever server is first; each deadline is as far away after it as before the step. It
-- reaps and promotes nothing: the call that met the step comes again.
--
-- ARGV after the prelude's
--   4 step_ms   integer  by how much the clock stepped; negative = back
--   5 ahead_ms  integer  of the reply `stepped`
-- Replies
--   shifted     (ahead_ms: from now on)
--   moved       the pool's clock was set since that reply; nothing was changed (ahead_ms)

local step = tonumber(ARGV[4])
if meta.ahead_ms ~= tonumber(ARGV[5]) then return answer('moved', {ahead_ms = meta.ahead_ms}) end -- guard: a-step-counts-once
redis.call('HDEL', META, '') -- needs no memory: what follows is not refused then
meta.ahead_ms, now = meta.ahead_ms + step, now - step
redis.call('HSET', META, 'ahead_ms', digits(meta.ahead_ms))
return answer('shifted', {ahead_ms = meta.ahead_ms})
