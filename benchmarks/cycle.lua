-- Sends the lines of BENCH_BODIES in turn, and prints one line of JSON at the end.
-- Requests are formatted once, at the start: the generator must stay cheaper than what it measures. Where the digits
-- of BENCH_NUMBER stand in them, a number is counted up,
-- from another one in each run.

local requests = {}
local turn = 0
local count = os.time() % 100 * 100000
local digits = os.getenv("BENCH_NUMBER") or ""

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  local token = os.getenv("BENCH_TOKEN")
  if token and token ~= "" then
    headers["Authorization"] = "Bearer " .. token
  end
  for name, value in (os.getenv("BENCH_HEADERS") or ""):gmatch("([^:\n]+): ([^\n]*)") do
    headers[name] = value
  end
  for body in io.lines(os.getenv("BENCH_BODIES")) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  if digits == "" then
    return requests[turn]
  end
  count = count + 1
  return (requests[turn]:gsub(digits, string.format("%0" .. #digits .. "d", count)))
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"bad_status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,'
      .. '"p50_us":%d,"p99_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration, errors.status, errors.connect, errors.read, errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
