-- configure: the pool's settings, as SQL has them.
--
-- Guarantee: no running job loses its lease; what the new settings allow happens before this returns. A longer max_hold_ms moves the hard
-- limits of leases that are held, a shorter one does not. That looks at each of them, and is rare.
--
-- ARGV after the prelude's
--   4 settings    JSON    the names of meta: limit, lease_ms, ..., paused: integers
-- Replies
--   configured

local was_paused, total, max_hold_ms = meta.paused, stood(now), meta.max_hold_ms
for name, value in pairs(cjson.decode(ARGV[4])) do
  meta[name] = value
  redis.call('HSET', META, name, digits(value))
end
if meta.paused ~= was_paused then set_still(total) end
begin()
if meta.max_hold_ms > max_hold_ms then -- guard: longer-hold-reaches-holders
  for _, job in ipairs(redis.call('ZRANGE', SLOTS, 0, -1)) do
    local entry = read(job)
    if entry and entry.hard and entry.granted_at + meta.max_hold_ms > entry.hard then
      entry.hard = entry.granted_at + meta.max_hold_ms
      write(job, entry)
    end
  end
end
return finish('configured', {})
