-- configure: the pool's settings, as SQL has them.
--
-- Guarantee: nobody who runs is touched; what the new settings allow happens before this returns.
--
-- ARGV after the prelude's
--   4 settings    JSON    the names of meta: limit, lease_ms, ..., paused: integers
-- Replies
--   configured

local was_paused, total = meta.paused, stood(now)
for name, value in pairs(cjson.decode(ARGV[4])) do
  meta[name] = value
  redis.call('HSET', META, name, digits(value))
end
if meta.paused ~= was_paused then set_still(total) end
begin()
return finish('configured', {})
