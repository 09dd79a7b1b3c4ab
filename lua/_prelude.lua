-- prelude: what every verb shares. It is put before the verb's own file, and the two run as one script.
--
-- A verb is:  begin()  its one step  return finish(WORD, {fields})
-- begin reaps what is dead and promotes who waits; finish promotes once more. So no call leaves a ghost in
-- a slot, or a waiter beside a free one. Both stop at a bound and say so: `more` means "call tick again".
--
-- KEYS, the same six for every verb, all of one hash tag; none ever carries EXPIRE
--   1 slots    ZSET    job_id -> deadline in ms: the semaphore
--   2 queue    LIST    job_ids that wait, head = next
--   3 jobs     HASH    job_id -> JSON entry (see grant and admit below)
--   4 outbox   STREAM  what scripts did that SQL has not recorded yet
--   5 meta     HASH    life, epoch, settings, counters
--   6 users    ZSET    user .. \31 .. job_id, for the cap per user
-- ARGV, the first three of every verb
--   1 life       EPOCH.LEDGER  the life of this pool that the caller believes in
--   2 now_ms     ~EXPECTED = the pool's clock, which the caller expects to be at EXPECTED ms; ~ = it expects nothing yet;
--                ~EXPECTED~SINCE = the same, and from SINCE to EXPECTED the caller served calls and both stores answered it;
--                '' = the pool's clock, unchecked; an integer = that time: only tests pass one
--   3 lease_ids  hex      32 random characters for each grant this call may make
-- Replies of the prelude itself; nothing was written
--   cold         another life, or none: the caller rebuilds from SQL, then comes again
--   stepped      the clock and the caller disagree about how long no call came (now, seen_at, ahead_ms): the caller judges
--                whether the clock stepped (see shift), then comes again
--   damaged      a key holds what gate never put there (key, found): the caller rebuilds likewise
-- Every reply: now, next (earliest deadline in ms, or absent), more, emitted (how many entries it put into the outbox),
--   outbox (those entries, [id, [name, value ...]], when nothing else stands there)

local SLOTS, QUEUE, JOBS, OUTBOX, META, USERS = unpack(KEYS)
local BOUND = 100 -- jobs that one step of a call looks at
local ENDS = 25 -- leases, or waits, that it ends: each is some ten microseconds in which Redis does nothing else
local ABSENCE_MS = 2500 -- a tick comes each second: two of them are missing, and every other call too
local ON_ITS_WAY_MS = 750 -- with the age of the caller's last look at the stores (1.75 s) no more than an absence
local STEP_MS = 5000 -- above what a pause of a process, a slow round trip or a slewed clock explains

-- How many there are: only a key of the right type has that answer.
local sizes = {}
for i, size in ipairs({'ZCARD', 'LLEN', 'HLEN', 'XLEN', 'HLEN', 'ZCARD'}) do
  sizes[i] = redis.pcall(size, KEYS[i])
  if type(sizes[i]) == 'table' then
    if not string.find(tostring(sizes[i].err), 'WRONGTYPE', 1, true) then return sizes[i] end -- it may not be asked
    local found = redis.call('TYPE', KEYS[i])
    return cjson.encode({word = 'damaged', key = KEYS[i], found = type(found) == 'table' and found.ok or found})
  end
end
local in_use, waiting, unrecorded = sizes[1], sizes[2], sizes[4] -- the first two as this call leaves them

local now = tonumber(ARGV[2])
local by_clock, present = not now, false
if by_clock then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local meta = {}
do
  local names = {'grace_to', 'tools_until', 'aside_until', 'fresh_fence', 'stood_ms', 'still_from', 'presences', 'pass_scan', 'queue_max_per_user',
                 'life', 'epoch', 'limit', 'lease_ms', 'max_hold_ms', 'claim_ms', 'queue_ms', 'queue_max', 'cooldown_ms',
                 'max_active_per_user', 'refusals_before_passing', 'paused', 'cooling_until', 'refusals', 'loaded_at', 'seen_at', 'ticket', 'fence',
                 'ahead_ms'}
  local values = redis.call('HMGET', META, unpack(names))
  meta.grace_to = tonumber(values[1]) -- there only while a holder is still to be given grace
  meta.tools_until = tonumber(values[2]) or 0 -- no tool cools down beyond it
  meta.aside_until = tonumber(values[3]) or 0 -- no job cools down alone beyond it
  meta.fresh_fence = tonumber(values[4]) or 0 -- see is_passed
  meta.stood_ms, meta.still_from = tonumber(values[5]) or 0, tonumber(values[6]) or 0 -- see stood
  meta.presences = values[7] -- there only while a waiter may have asked for presence
  meta.pass_scan = tonumber(values[8]) or 0 -- waiters at the head that the last call passed when it met its bound
  meta.queue_max_per_user = tonumber(values[9]) or 0 -- not there in a pool that an older gate has loaded
  if values[10] ~= ARGV[1] then return cjson.encode({word = 'cold'}) end
  for i = 11, #names - 1 do
    local value = tonumber(values[i])
    if not value then return cjson.encode({word = 'cold'}) end
    meta[names[i]] = value
  end
  meta.ahead_ms = tonumber(values[#names]) or 0 -- since the clock of Redis stepped, it is that far ahead of the pool's
end

-- Each time of a pool is of the pool's own clock: that of Redis without its steps. No step moves a deadline, in either store.
if by_clock then
  now = now - meta.ahead_ms
  local gap, checked, expected, since = now - meta.seen_at, string.match(ARGV[2], '^(~)(%d*)~?(%d*)$')
  expected, since = tonumber(expected), tonumber(since)
  -- Holders could call gate all the time, and only its tick is late. A call that was long on its way proves nothing about that time.
  present = expected and since and since - meta.seen_at <= ABSENCE_MS
            and now - expected <= ON_ITS_WAY_MS -- guard: presence-up-to-the-call
  -- A clock that shows no gap goes on as others have seen it: it is the caller's own that is wrong.
  local continuous = math.abs(gap) <= ABSENCE_MS -- mutant: gap-to-the-millisecond
  local agreed = expected and math.abs(now - expected) <= STEP_MS -- mutant: step-to-the-millisecond
  -- A newcomer's absence, where no deadline is at stake.
  local idle = not expected and gap > 0 and in_use + waiting == 0 -- mutant: newcomer-without-a-gap
  if checked and not (continuous or agreed or idle) then -- guard: no-verb-by-a-stepped-clock
    return cjson.encode({word = 'stepped', now = now, seen_at = meta.seen_at, ahead_ms = meta.ahead_ms})
  end
end

local more, emitted, ids_used = false, 0, 0

-- Integers above 10^14 would lose digits in cjson; fences and tickets (epoch * 2^32 + n) travel as text.
local function digits(n) return string.format('%.0f', n) end

-- The job's entry, or nil: also when it is none of gate's.
local function read(job)
  local text = redis.call('HGET', JOBS, job)
  if not text then return end -- mutant: no-entry
  local ok, entry = pcall(cjson.decode, text)
  if ok and type(entry) == 'table' and tonumber(entry.ticket) and tonumber(entry.queued_at)
     and tonumber(entry.lease_ms) and (entry.fence == nil or tonumber(entry.fence)) then return entry end
end

local function write(job, entry) redis.call('HSET', JOBS, job, cjson.encode(entry)) end

-- Only these functions put a job into a slot or take it out of a slot or the queue, so that the two counts stay true.
local function occupy(job, due) in_use = in_use + redis.call('ZADD', SLOTS, digits(due), job) end

local function vacate(job)
  local left = redis.call('ZREM', SLOTS, job)
  in_use = in_use - left
  return left == 1
end

-- The places of the line, counted from 0, between which a waiter stands. It stands in order of its tickets, which count up by one: no more
-- can be missing between a waiter and an end than are missing in all. (By an operator's hand it may be otherwise.)
local function between(entry)
  local head, tail = read(redis.call('LINDEX', QUEUE, 0)), read(redis.call('LINDEX', QUEUE, -1))
  local last, ticket = waiting - 1, entry and tonumber(entry.ticket)
  if not (head and tail and ticket) then return 0, last end
  return math.max(0, math.floor(last - (tonumber(tail.ticket) - ticket))),
         math.min(last, math.floor(ticket - tonumber(head.ticket)))
end

-- From which end it is found sooner: 1 the head, -1 the tail.
local function side(from, to) return waiting - 1 - from < to and -1 or 1 end -- mutant: nearer-end-of-two

-- From where the next call looks for a waiter to grant.
local function scan_from(place)
  if place == meta.pass_scan then return end
  meta.pass_scan = place
  if place == 0 then redis.call('HDEL', META, 'pass_scan') else redis.call('HSET', META, 'pass_scan', place) end
end

local function unqueue(job, entry)
  if waiting == 0 then return false end -- mutant: empty-queue
  local left = redis.call('LREM', QUEUE, waiting > BOUND and entry and side(between(entry)) or 1, job) -- mutant: nearer-end
  waiting = waiting - left
  -- It may have stood among those that were passed.
  if left > 0 then scan_from(math.max(0, meta.pass_scan - left)) end -- mutant: none-left
  return left == 1
end

-- Its place, counted from 0, or nil. In a long line it is looked for where it stands if few before it have left, then where it stands
-- if few behind it have, and only then among all.
local function place(job, entry)
  if waiting <= BOUND then return waiting > 0 and redis.call('LPOS', QUEUE, job) or nil end -- mutant: short-queue
  local from, to = between(entry)
  if from <= to then
    for _, first in ipairs({math.max(from, to - BOUND + 1), from}) do
      for i, waiter in ipairs(redis.call('LRANGE', QUEUE, first, math.min(to, first + BOUND - 1))) do
        if waiter == job then return first + i - 1 end
      end
    end
  end
  return redis.call('LPOS', QUEUE, job, 'RANK', side(from, to)) or nil
end

local function forget(job, entry)
  redis.call('HDEL', JOBS, job)
  if entry and entry.user then redis.call('ZREM', USERS, entry.user .. '\31' .. job) end
end

local function count_for_user(job, entry)
  if entry.user then redis.call('ZADD', USERS, 0, entry.user .. '\31' .. job) end
end

local function admit(job, entry)
  if entry.queue_ms then redis.call('HSET', META, 'own_waits', 1) end -- tick looks at waiters with a queue time of their own
  if entry.presence_ms and not meta.presences then
    meta.presences = '1' -- mutant: one-admission-a-call
    redis.call('HSET', META, 'presences', 1)
  end
  write(job, entry)
  count_for_user(job, entry)
end

-- The entry of the outbox about a grant or an end of a job, if there is one: SQL has to hear of it before anything new is said of the job.
local function noted(job)
  if unrecorded + emitted == 0 then return end -- mutant: empty-outbox
  for _, item in ipairs(redis.call('XRANGE', OUTBOX, '-', '+')) do
    if item[2][4] == job and item[2][2] ~= 'passed' then return item[2] end
  end
end

local function emit(kind, job, entry, fence, ...)
  redis.call('XADD', OUTBOX, '*', 'kind', kind, 'job', job, 'at', digits(now), 'ticket', entry.ticket, 'fence', fence, ...)
  emitted = emitted + 1
end

-- How long the pool had stood still in all by a moment: paused, cooling down, or without gate or a store. An entry keeps what this was at
-- its arrival; what came since counts against no wait. An interval is open from still_from (0 = none) while the pool is paused, or to the
-- end of its cool-down.
local function stood(at)
  if meta.still_from == 0 then return meta.stood_ms end
  return meta.stood_ms + math.max(0, (meta.paused == 1 and at or math.min(at, meta.cooling_until)) - meta.still_from)
end

-- Changes fields of meta. `total` is stood(now) of before the change: it is kept, and counts on from now if the pool still stands still.
local function set_still(total, ...)
  meta.stood_ms = total
  meta.still_from = (meta.paused == 1 or meta.cooling_until > now) and now or 0 -- mutant: still-for-no-time
  redis.call('HSET', META, 'stood_ms', digits(total), 'still_from', digits(meta.still_from), ...)
end

-- Any lease that ends shows that the provider takes jobs again.
local function warm_up()
  if meta.cooling_until > 0 then -- mutant: never-cooled
    local total = stood(now)
    meta.refusals, meta.cooling_until = 0, 0
    meta.fresh_fence = 0 -- guard: end-of-a-lease-ends-the-passing
    set_still(total, 'refusals', 0, 'cooling_until', 0, 'fresh_fence', digits(meta.fresh_fence), 'well_at', digits(now))
  end
end

-- How long a cool-down lasts that follows `times` others.
local function doubled(times) return math.min(meta.cooldown_ms * 2 ^ math.min(times, 20), 60000) end

local function ids_left() return (ids_used + 1) * 32 <= #ARGV[3] end

local function may_grant()
  return meta.paused == 0 and meta.cooling_until <= now and in_use < meta.limit
end

-- The only place that puts a job into a slot. `claimed` says whether its holder knows already (it asked, and
-- gets the answer now) or has to come and claim first. The outbox entry goes first: a lost grant is worse
-- than an entry too many.
local function grant(job, entry, claimed)
  local from = ids_used * 32 + 1
  ids_used = ids_used + 1
  meta.fence = redis.call('HINCRBY', META, 'fence', 1)
  entry.lease_id = string.sub(ARGV[3], from, from + 31)
  entry.fence, entry.claimed, entry.granted_at = digits(meta.fence), claimed, now
  entry.hard = now + meta.max_hold_ms
  entry.due = math.min(now + (claimed and entry.lease_ms or meta.claim_ms), entry.hard)
  if not claimed then
    emit('granted', job, entry, entry.fence, 'lease_id', entry.lease_id, 'due', digits(entry.due),
         'hard', digits(entry.hard))
  end
  occupy(job, entry.due)
  write(job, entry)
  if meta.fresh_fence > 0 and (tonumber(entry.refused) or 0) < meta.refusals_before_passing then
    meta.fresh_fence = meta.fence
    redis.call('HSET', META, 'fresh_fence', digits(meta.fence))
  end
end

local function reap()
  if in_use == 0 then return end -- mutant: no-lease
  local from = meta.grace_to and '(' .. digits(meta.grace_to) or '-inf'
  local dead = redis.call('ZRANGEBYSCORE', SLOTS, from, digits(now), 'LIMIT', 0, ENDS)
  for _, job in ipairs(dead) do
    local entry = read(job)
    -- Without an entry the fence is unknown; SQL's own deadline ends that job.
    -- SQL has the end of a job whose slot drains.
    if entry and entry.fence and not entry.drains then emit('expired', job, entry, entry.fence) end
    vacate(job)
    forget(job, entry)
    warm_up()
  end
  more = more or #dead == ENDS
end

-- A tool whose start address cannot be right cools down by itself (see requeue, tool_down): gate starts none of its jobs
-- until then. In meta as `cool:TOOL` = `UNTIL_MS TIMES`.
local function cooled_until(tool)
  local text = redis.call('HGET', META, 'cool:' .. tool)
  return tonumber(text and string.match(text, '^%d+')) or 0
end

local function cools(entry)
  -- mutant: end-of-the-last-tool
  return meta.tools_until > now
         and entry and entry.by_gate and entry.tool and cooled_until(entry.tool) > now
end

-- A waiter that asked for presence is absent once its caller has not shown itself for that long. A load, or an absence of gate or a
-- store, counts as a sign of every caller, because no call could reach gate.
local function absent(entry)
  if not (entry and entry.presence_ms) then return false end
  local shown = entry.present_until or 0
  shown = math.max(shown, meta.loaded_at + entry.presence_ms) -- guard: present-after-a-load
  return shown <= now
end

-- The caller of a waiter shows itself, or needs to show itself no longer. A quarter more than its time is noted, so that most of its calls
-- write nothing. The reply says whether it was passed meanwhile.
local function show(job, entry, for_good)
  if not (entry and entry.presence_ms) then return false end
  if not for_good and (entry.present_until or 0) >= now + entry.presence_ms then return false end
  local was_passed = entry.passed
  entry.present_until, entry.passed = now + math.floor(entry.presence_ms * 5 / 4), nil
  if for_good then entry.presence_ms, entry.present_until = nil, nil end
  write(job, entry)
  if was_passed then scan_from(0) end -- guard: look-again-from-the-head
  return was_passed
end

-- SQL hears once of each absence that cost a waiter its turn: the history has to say why a later one was first.
local function pass(job, entry)
  if entry.passed or not absent(entry) then return end
  emit('passed', job, entry, '0') -- guard: passing-is-written-down
  entry.passed = true
  write(job, entry)
end

local function stays(entry)
  if cools(entry) then return true end -- guard: pass-a-waiter-whose-tool-is-down
  if absent(entry) then return true end -- guard: pass-an-absent-waiter
  return false -- mutant: nothing-is-not-true
end

-- A job that was refused several times in a row beside others that started is tried again only after a cool-down of its own (see requeue).
local function is_poison(entry)
  -- mutant: end-of-the-last-job
  return meta.aside_until > now
         and entry and entry.poison and (tonumber(entry.aside_until) or 0) > now
end

-- A job that was refused several times in a row (`aside` is the fence of the last time) is passed until a job that was not has had its turn. No
-- job is passed while fresh_fence is 0: a lease has ended, so the provider was full, and the order counts again.
local function is_passed(entry)
  local aside = meta.fresh_fence > 0 and entry and tonumber(entry.aside)
  return aside and aside >= meta.fresh_fence
end

local function leave_for_a_slot(job, entry, place)
  -- A job that holds a slot has no place in the queue: by an operator's hand it may stand there.
  if entry and not redis.call('ZSCORE', SLOTS, job) then grant(job, entry, false) end
  if place == 0 then redis.call('LPOP', QUEUE) else redis.call('LREM', QUEUE, 1, job) end
  waiting = waiting - 1
end

-- Where only passed waiters are left, the one that was tried longest ago is tried: no slot stays free for their sake.
local function grant_to_the_passed()
  while waiting > 0 and may_grant() and ids_left() do -- mutant: none-waits
    local first, its_entry
    for _, job in ipairs(redis.call('LRANGE', QUEUE, 0, BOUND - 1)) do
      local entry = read(job)
      if is_passed(entry) and not is_poison(entry) and not stays(entry)
         and not (first and tonumber(its_entry.aside) < tonumber(entry.aside)) then first, its_entry = job, entry end
    end
    if not first then return end
    leave_for_a_slot(first, its_entry)
  end
end

-- Waiters that are absent or set aside, or whose tool cools down, keep their places and are passed by those behind them. When more of them stand
-- there than one call looks at, the next call goes on behind them.
local function promote()
  local looked_at, passed = 0, meta.pass_scan
  while waiting > passed and may_grant() do
    local job = redis.call('LINDEX', QUEUE, passed)
    if looked_at == BOUND or not ids_left() then
      more = true
      return scan_from(passed)
    end
    looked_at = looked_at + 1
    local entry = read(job)
    if stays(entry) then
      pass(job, entry)
      passed = passed + 1
    elseif is_passed(entry) or is_poison(entry) then -- guard: pass-a-job-that-is-always-refused
      passed = passed + 1
    else
      leave_for_a_slot(job, entry, passed)
    end
  end
  scan_from(0)
  if meta.fresh_fence > 0 then grant_to_the_passed() end -- mutant: none-is-passed
end

-- When its wait is over, without grace. It moves while the pool stands still.
local function wait_ends(entry)
  return entry.queued_at + (tonumber(entry.queue_ms) or meta.queue_ms)
         + stood(now) - (tonumber(entry.stood) or 0) -- guard: standing-still-counts-against-no-wait
end

-- Who waited through an absence of gate or of a store has the claim time of grace after it.
local function queue_due(entry)
  local due = wait_ends(entry)
  return entry.queued_at < meta.loaded_at and math.max(due, meta.loaded_at + meta.claim_ms) or due
end

-- Ends the wait of one whose time is over; a job that holds a slot only loses its place.
local function end_wait(job, entry)
  unqueue(job)
  if not redis.call('ZSCORE', SLOTS, job) then
    if entry then emit('expired', job, entry, '0') end
    forget(job, entry)
  end
end

-- Waiters stand in order of arrival, so the overdue ones are at the head; only waiters with grace, or with a queue time of
-- their own, may stand before them.
local function end_waits()
  local ended, graced = 0, 0
  while ended < ENDS and graced < BOUND do
    if graced >= waiting then return end
    local job = redis.call('LINDEX', QUEUE, graced)
    local entry = read(job)
    if entry and queue_due(entry) > now then
      -- mutant: one-look-sooner
      if not entry.queue_ms and wait_ends(entry) > now then return end -- guard: queue-grace-after-an-absence
      graced = graced + 1
    else
      end_wait(job, entry)
      ended = ended + 1
    end
  end
  more = more or ended == ENDS
end

-- After a step the pool's clock returns to that of Redis, by a hundredth of the time that passes: no deadline feels it, and the
-- times that people are shown are right again in the end.
local function slew(passed_ms)
  local by = math.min(math.abs(meta.ahead_ms), math.ceil(math.min(passed_ms, ABSENCE_MS) / 100))
  meta.ahead_ms = meta.ahead_ms > 0 and meta.ahead_ms - by or meta.ahead_ms + by -- mutant: never-slewed-from-zero
  redis.call('HSET', META, 'ahead_ms', digits(meta.ahead_ms))
end

-- No call came for so long, not even a tick: gate or a store was away, and holders could not renew. Deadlines that passed
-- meanwhile (up to grace_to) get the claim time of grace, and no lease with such a deadline is reaped before all have it.
-- (A test that turns the clock means time with a living gate.)
local function mind_absence()
  if not by_clock then return end
  local only_late = present -- guard: late-tick-is-no-absence
  -- mutant: absence-to-the-millisecond
  if now - meta.seen_at > ABSENCE_MS and not only_late then -- guard: grace-after-an-absence
    local total = stood(meta.seen_at) + now - meta.seen_at
    meta.loaded_at, meta.grace_to = now, now
    set_still(total, 'loaded_at', digits(now), 'grace_to', digits(now))
  end
  if meta.grace_to then
    local passed = redis.call('ZRANGEBYSCORE', SLOTS, '-inf', digits(meta.grace_to), 'LIMIT', 0, BOUND)
    for _, job in ipairs(passed) do redis.call('ZADD', SLOTS, 'XX', digits(now + meta.claim_ms), job) end
    if #passed == BOUND then
      more = true
    else
      meta.grace_to = nil -- mutant: grace-is-over
      redis.call('HDEL', META, 'grace_to')
    end
  end
  if now - meta.seen_at > 1000 then -- mutant: presence-to-the-millisecond
    if meta.ahead_ms ~= 0 then slew(now - meta.seen_at) end
    meta.seen_at = now
    redis.call('HSET', META, 'seen_at', digits(now))
  end
end

-- Redis without room for more refuses a script at its first write that needs some, but never one that has written
-- already. New work is refused then; what is under way has to be renewed, to end and to be followed all the same. So
-- every verb but acquire starts with a write that needs no room, and does nothing.
local function begin(for_new_work)
  if not for_new_work then redis.call('HDEL', META, '') end -- guard: write-without-room
  mind_absence()
  reap() -- guard: reap-before-anything
  promote()
  end_waits()
end

-- The entry of a job that holds exactly this lease, or nil; and its deadline in slots, where grace after an absence stands alone.
local function held(job, lease_id)
  local entry = read(job)
  local stands = entry and redis.call('ZSCORE', SLOTS, job)
  if entry
     and entry.lease_id == lease_id -- guard: only-the-lease-named
     and stands -- guard: extend-only-a-held-slot
  then return entry, math.max(entry.due, tonumber(stands) or 0) end
end

-- Gives a lease a deadline. Grace is not taken away by it: a holder that calls has no less time than one that is silent.
local function extend(job, entry, due, stands)
  if stands > entry.due then due = math.max(due, stands) end -- guard: grace-outlasts-an-extension
  entry.due = due
  redis.call('ZADD', SLOTS, 'XX', digits(due), job)
  write(job, entry)
end

-- Puts a waiter before the first one with a higher ticket. Nearly always that is the head or the tail.
local function seat(job, ticket)
  waiting = waiting + 1
  scan_from(0)
  local last = redis.call('LINDEX', QUEUE, -1)
  local tail = last and read(last) -- mutant: tail-of-the-queue
  -- mutant: place-at-the-tail
  if not last or (tail and tonumber(tail.ticket) < ticket) then return redis.call('RPUSH', QUEUE, job) end
  local from = 0
  while true do
    local page = redis.call('LRANGE', QUEUE, from, from + BOUND - 1)
    for _, waiter in ipairs(page) do
      local entry = read(waiter)
      -- mutant: equal-tickets
      if entry and tonumber(entry.ticket) > ticket then -- guard: place-by-ticket
        return redis.call('LINSERT', QUEUE, 'BEFORE', waiter, job)
      end
    end
    if #page < BOUND then return redis.call('RPUSH', QUEUE, job) end
    from = from + BOUND
  end
end

local function answer(word, reply)
  local soonest = in_use > 0 and tonumber(redis.call('ZRANGE', SLOTS, 0, 0, 'WITHSCORES')[2]) or nil -- mutant: no-deadline
  if waiting > 0 then
    local entry = read(redis.call('LINDEX', QUEUE, 0))
    local due = entry and queue_due(entry) or now
    if meta.cooling_until > now then due = meta.cooling_until end
    if meta.paused == 0 then soonest = math.min(soonest or due, due) end -- the wait of a pool that stands still ends at no known time
  end
  reply.word, reply.now, reply.next, reply.more, reply.emitted = word, now, soonest, more, emitted
  if emitted > 0 then -- mutant: nothing-emitted
    -- When this call has written all of it, the caller needs no read of its own.
    local there = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', emitted + 1)
    if #there == emitted then reply.outbox = there end
  end
  return cjson.encode(reply)
end

local function finish(word, reply)
  promote() -- guard: promote-before-the-answer
  return answer(word, reply)
end
