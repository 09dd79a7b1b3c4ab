-- tick: nothing but what every verb does. An idle pool reaps and promotes by it.
--
-- Guarantee: after it (and again while it says `more`) no dead lease holds a slot, no waiter stands beside a free one.
--
-- ARGV after the prelude's: none
-- Replies
--   ticked

begin()
return finish('ticked', {})
