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
--   reset       the pool was empty, so tick has given its clock up for that of Redis: the caller's expectation is the old one, and
--               nothing was changed (ahead_ms)

local RESET_MS = 30000 -- within it each living server calls, and finds out; a sweep calls every ten seconds
local step = tonumber(ARGV[4])
if meta.ahead_ms ~= tonumber(ARGV[5]) then return answer('moved', {ahead_ms = meta.ahead_ms}) end -- guard: a-step-counts-once
local reset = redis.call('HMGET', META, 'reset_ms', 'reset_at')
local since = now - (tonumber(reset[2]) or 0)
-- A further step of the same size would show a time that is further away from the reset than the step is long.
local is_recent = since >= 0 and since <= RESET_MS -- mutant: reset-to-the-millisecond
-- mutant: reset-by-the-same-step
if reset[1] and is_recent and math.abs(step - tonumber(reset[1])) <= STEP_MS then -- guard: a-reset-is-no-step
  return answer('reset', {ahead_ms = meta.ahead_ms})
end
redis.call('HDEL', META, '') -- needs no memory: what follows is not refused then
meta.ahead_ms, now = meta.ahead_ms + step, now - step
redis.call('HSET', META, 'ahead_ms', digits(meta.ahead_ms))
return answer('shifted', {ahead_ms = meta.ahead_ms})
