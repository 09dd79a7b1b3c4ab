-- rebuild: loads a pool that Redis has lost from what SQL says. Runs alone, without the prelude.
--
-- Guarantee: refuses unless its epoch is above the one that is there, so of two servers that rebuild one wins.
-- The life is written last: until then every other script answers `cold`. Deadlines that passed while no holder
-- could renew get the claim time of grace. The reply names them, so that the next rebuild does not give it again.
--
-- KEYS 1 slots  2 queue  3 jobs  4 outbox  5 meta  6 users (types as in the prelude; all are replaced)
-- ARGV
--   1 epoch     integer  above every earlier one
--   2 now_ms    integer  '' = the server's clock; only tests pass one
--   3 settings  JSON     limit, lease_ms, max_hold_ms, claim_ms, queue_ms, queue_max, cooldown_ms,
--                        max_active_per_user, queue_max_per_user, refusals_before_passing, paused, stood_ms (how long it stood
--                        still until now), ahead_ms (see the prelude; absent = 0): integers
--   4 leases    JSON     array of {job, entry}; the entry has its due, or drains and left_ms: how long the slot of an ended job is kept
--   5 waiters   JSON     array of {job, entry}, in order of their tickets
--   6 ledger    string   whose pool this is: two ledgers on one Redis would load it against each other for ever
-- Replies
--   loaded      (graced: array of {job, due}, absent when there are none)
--   refused     this epoch or a higher one is there already (epoch)
--   foreign     a gate with another ledger has called here within the last ten seconds

local SLOTS, QUEUE, JOBS, OUTBOX, META, USERS = unpack(KEYS)
local ALIVE_MS = 10000
local epoch, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local settings, leases, waiters = cjson.decode(ARGV[3]), cjson.decode(ARGV[4]), cjson.decode(ARGV[5])
now = now - (settings.ahead_ms or 0)
local found = redis.call('TYPE', META)
if (type(found) == 'table' and found.ok or found) == 'hash' then
  local ledger = redis.call('HGET', META, 'ledger')
  local seen = tonumber(redis.call('HGET', META, 'seen_at')) or 0
  -- guard: pool-of-another-ledger-is-kept
  if ledger and ledger ~= ARGV[6] and now - seen < ALIVE_MS then return cjson.encode({word = 'foreign'}) end
  local there = tonumber(redis.call('HGET', META, 'epoch')) or 0
  if there == epoch and redis.call('HGET', META, 'life') == ARGV[1] .. '.' .. ARGV[6] then
    return cjson.encode({word = 'loaded', now = now}) -- the reply was lost, and the call came twice
  end
  if there >= epoch then return cjson.encode({word = 'refused', epoch = there}) end -- guard: load-only-a-newer-epoch
end

redis.call('DEL', SLOTS, QUEUE, JOBS, OUTBOX, META, USERS)
local function admit(job, entry)
  redis.call('HSET', JOBS, job, cjson.encode(entry))
  if entry.user then redis.call('ZADD', USERS, 0, entry.user .. '\31' .. job) end
end
local graced
for _, item in ipairs(leases) do
  local job, entry = item[1], item[2]
  if entry.drains then
    entry.due, entry.left_ms = now + entry.left_ms, nil
  elseif entry.due <= now then -- guard: grace-at-rebuild
    entry.due = now + settings.claim_ms
    graced = graced or {}
    graced[#graced + 1] = {job, entry.due}
  end
  redis.call('ZADD', SLOTS, string.format('%.0f', entry.due), job)
  admit(job, entry)
end
for _, item in ipairs(waiters) do
  redis.call('RPUSH', QUEUE, item[1])
  if item[2].queue_ms then redis.call('HSET', META, 'own_waits', 1) end
  if item[2].presence_ms then redis.call('HSET', META, 'presences', 1) end
  admit(item[1], item[2])
end
for name, value in pairs(settings) do redis.call('HSET', META, name, string.format('%.0f', value)) end
-- Above every fence and ticket of an earlier life: nothing of it can be mistaken for something of this one.
local floor = string.format('%.0f', epoch * 4294967296) -- guard: fences-above-earlier-epochs
redis.call('HSET', META, 'ledger', ARGV[6], 'ticket', floor, 'fence', floor, 'refusals', 0, 'cooling_until', 0,
           'loaded_at', string.format('%.0f', now), 'seen_at', string.format('%.0f', now),
           'still_from', settings.paused == 1 and string.format('%.0f', now) or 0)
redis.call('HSET', META, 'epoch', string.format('%.0f', epoch), 'life', ARGV[1] .. '.' .. ARGV[6])
return cjson.encode({word = 'loaded', now = now, graced = graced})
