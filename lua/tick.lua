-- tick: what every verb does, and a look at waiters behind those with a queue time of their own. An idle pool reaps and promotes by it.
--
-- Guarantee: after it (and again while it says `more`) no dead lease holds a slot, no waiter stands beside a free one.
--
-- ARGV after the prelude's
--   4 recorded    integer  the newest event that the caller has read from SQL; '' when it has read none. The highest one is kept, to
--                          know a SQL that has gone back
--   5 resets      0 or 1   1 = SQL has the clock of Redis as the pool's: take it back, if no time of the pool counts now
-- Replies
--   ticked

begin()
-- An empty pool has no deadline that could move: its clock may be that of Redis again. No cool-down may be due by either clock.
if ARGV[5] == '1' and meta.ahead_ms ~= 0
   and in_use + waiting + unrecorded + emitted + meta.paused == 0 -- guard: reset-the-clock-of-an-empty-pool-only
   -- mutant: cooled-down-to-the-millisecond
   and math.max(meta.cooling_until, meta.tools_until) <= math.min(now, now + meta.ahead_ms) then
  now = now + meta.ahead_ms
  redis.call('HSET', META, 'reset_ms', digits(meta.ahead_ms), 'reset_at', digits(now)) -- for shift: other servers meet the step again
  redis.call('HSET', META, 'ahead_ms', 0, 'seen_at', digits(now), 'loaded_at', digits(math.min(meta.loaded_at, now)))
end
-- Where waiters have queue times of their own, one may be overdue behind a hundred that are not: each tick looks at the next hundred.
if meta.presences and waiting == 0 then redis.call('HDEL', META, 'presences') end
local scans = redis.call('HGET', META, 'own_waits')
if scans and waiting == 0 then redis.call('HDEL', META, 'own_waits', 'wait_scan') end
if scans and waiting > 0 then
  local from = tonumber(redis.call('HGET', META, 'wait_scan')) or 0
  if from >= waiting then from = 0 end -- mutant: scan-from-the-start
  local page = redis.call('LRANGE', QUEUE, from, from + BOUND - 1)
  local ended = 0
  for _, job in ipairs(page) do
    local entry = read(job)
    if entry and ended < ENDS and queue_due(entry) <= now then
      end_wait(job, entry)
      ended = ended + 1
    end
  end
  local next_from = #page < BOUND and 0 or from + #page - ended
  if next_from ~= from then redis.call('HSET', META, 'wait_scan', digits(next_from)) end
end
local recorded = tonumber(ARGV[4])
-- guard: keep-the-newest-mark
if recorded and recorded > (tonumber(redis.call('HGET', META, 'recorded')) or 0) then -- mutant: same-mark
  redis.call('HSET', META, 'recorded', digits(recorded))
end
return finish('ticked', {})
