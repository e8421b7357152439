-- Decides about the requests of one client, as shared_state.py does. All times are those of this server's clock.
--
-- KEYS[1]  hash of the state: "name"; "paid RATE"; "cooldown ENDPOINT"; "client NAME" -> numbers, see `decoded`
-- ARGV[1]  channel of the notices
-- ARGV[2]  JSON: client, state, new_state, report, charge, wants, bounds, horizon, lifetime, ask_again, keep
--
-- Returns the name of the state, whether others wait for permits, and for each request the decision and its seconds.

local GRANTED, LATER, MAX_REQUESTS, BUDGET = 0, 1, 2, 3
local ROUNDING = 1e-9
local key, call = KEYS[1], cjson.decode(ARGV[2])
local bounds = call.bounds
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local state = {}
local flat = redis.call('HGETALL', key)
for place = 1, #flat, 2 do state[flat[place]] = flat[place + 1] end

-- The usual conversion of Lua has 14 digits, too few for a time.
local function exact(number) return string.format('%.17g', number) end

local function put(field, text)
  state[field] = text
  redis.call('HSET', key, field, text)
end

local FIELDS = {'held', 'unsent', 'sent', 'cost', 'tokens', 'cost_held', 'tokens_held', 'waits', 'expires'}

local function decoded(text)
  local record, place = {}, 1
  for number in string.gmatch(text, '%S+') do
    record[FIELDS[place]] = tonumber(number)
    place = place + 1
  end
  return record
end

local function encoded(record)
  local numbers = {}
  for place, field in ipairs(FIELDS) do numbers[place] = exact(record[field]) end
  return table.concat(numbers, ' ')
end

if not state.name then
  put('name', call.new_state)
  if call.state ~= '' then -- the old state is lost, and what it let through is unknown
    for _, rate in ipairs(bounds.rates) do put('paid ' .. rate.name, exact(now + rate.capacity * rate.interval)) end
  end
end

local counts = bounds.max_requests or bounds.max_cost or bounds.max_tokens
local own_field, clients, before = 'client ' .. call.client, {}, nil
for field, text in pairs(state) do
  if string.sub(field, 1, 7) == 'client ' then
    local record = decoded(text)
    if field == own_field then
      if record.expires > now then before = record end
    elseif record.expires > now then
      clients[field] = record
    elseif counts then -- what it has sent and spent counts for ever, and what it was granted may have been sent
      record.held, record.sent, record.unsent, record.waits = 0, record.sent + record.unsent, 0, 0
      clients[field] = record
      redis.call('HSET', key, field, encoded(record))
    else
      redis.call('HDEL', key, field)
    end
  end
end
local own = call.report
own.waits, own.expires = 0, now + call.lifetime
clients[own_field] = own

for _, rate in ipairs(bounds.rates) do
  local paid = state['paid ' .. rate.name]
  if rate.unit == 'tokens' and paid and call.charge ~= 0 then
    put('paid ' .. rate.name, exact(tonumber(paid) + call.charge * rate.interval))
  end
end

local function sum(...)
  local total = 0
  for _, record in pairs(clients) do
    for _, field in ipairs({...}) do total = total + record[field] end
  end
  return total
end

local function exceeds(value, limit) return limit and value > limit * (1 + ROUNDING) end

-- Refuses or delays a request beyond what is counted; nil if there is room.
local function counted(want)
  if bounds.max_requests then
    if sum('sent') >= bounds.max_requests then return MAX_REQUESTS, 0 end
    if sum('sent', 'unsent') >= bounds.max_requests then return LATER, call.ask_again end
  end
  local cost, tokens = sum('cost', 'cost_held') + want.price, sum('tokens', 'tokens_held') + want.tokens_total
  if exceeds(cost, bounds.max_cost) or exceeds(tokens, bounds.max_tokens) then
    if sum('held') > 0 then return LATER, call.ask_again end
    return BUDGET, 0
  end
  return nil
end

-- True if a permit is free, and no other client that waits has fewer than its share.
local function has_permit()
  if not bounds.concurrency then return true end
  if sum('held') >= bounds.concurrency then return false end
  local active = 0
  for _, record in pairs(clients) do
    if record == own or record.waits == 1 or record.held > 0 then active = active + 1 end
  end
  local share = math.ceil(bounds.concurrency / active)
  if own.held < share then return true end
  for _, record in pairs(clients) do
    if record ~= own and record.waits == 1 and record.held < share then return false end
  end
  return true
end

local function decide(want)
  local cooldown = tonumber(state['cooldown ' .. want.endpoint] or 0) - now
  if cooldown > 0 then return LATER, cooldown end
  local refused, seconds = counted(want)
  if refused then return refused, seconds end
  if not has_permit() then
    own.waits = 1
    return LATER, call.ask_again
  end
  local start = now
  -- All rates decide on the start before any is charged: a rate must not count the wait for another one.
  for _, rate in ipairs(bounds.rates) do
    local units, paid = want[rate.unit], tonumber(state['paid ' .. rate.name])
    if units > 0 and paid then
      start = math.max(start, paid - math.max(0, rate.capacity - units) * rate.interval)
    end
  end
  if start > now + call.horizon then return LATER, start - now - call.horizon end
  for _, rate in ipairs(bounds.rates) do
    local units = want[rate.unit]
    if units > 0 then
      local paid = tonumber(state['paid ' .. rate.name] or start)
      put('paid ' .. rate.name, exact(math.max(start, paid) + units * rate.interval))
    end
  end
  own.held, own.unsent = own.held + 1, own.unsent + 1
  own.cost_held, own.tokens_held = own.cost_held + want.price, own.tokens_held + want.tokens_total
  return GRANTED, start - now
end

local result = {state.name, 0}
for _, want in ipairs(call.wants) do
  local decided, seconds = decide(want)
  result[#result + 1] = decided
  result[#result + 1] = exact(seconds)
end
redis.call('HSET', key, own_field, encoded(own))
redis.call('PEXPIRE', key, call.keep)

for _, record in pairs(clients) do
  if record ~= own and record.waits == 1 then result[2] = 1 end
end
-- A client that begins to wait tells the others, whose permits may be idle; freed permits go to those that wait.
local begins = own.waits == 1 and not (before and before.waits == 1)
local frees = result[2] == 1 and before and own.held < before.held
if begins or frees then redis.call('PUBLISH', ARGV[1], 'permits') end
return result
