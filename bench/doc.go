// Package bench puts a serving load on running servers and measures what their
// clients see. Chorale and its peers (SGLang, llama.cpp's server, whatever
// speaks OpenAI's completions) are measured by the same code, alternately in
// one run, so that a ratio between them is not a ratio between two hours.
//
// # Load
//
// Closed loop: all clients start together, each makes its requests one after
// the other; that is one burst. Open loop: requests come when they are due,
// whether or not earlier ones have ended, with Gamma(1/cv², cv²/rate) gaps, and
// every latency counts from when the request was due. A server, or this client,
// that falls behind thus shows it (no coordinated omission).
//
// Which adapter a request names is the mode's affair: none, same (the first for
// all), each (client i takes adapter i), power (adapter ⌊n·U^(1/α)⌋, S-LoRA's
// and Punica's skewed popularity). Prompts are random token ids that never
// repeat within a run, so that no prefix cache helps; lengths are fixed, uniform
// or from a file. All is drawn from the seed, the same shape for each target and
// mode.
//
// # Figures
//
// TTFT is from due to first token, E2E from due to last token, TPOT of a request
// (last − first) / (tokens − 1), ITL the gap between one token and the next;
// tokens that come in one chunk have gaps of 0. Percentiles interpolate linearly
// between closest ranks. Throughput is all generated tokens over the time from
// the start to the last token, prompt processing included. A request that failed
// or was cut off counts against SLO attainment and is in no percentile. Each
// request has a connection of its own, which TTFT includes.
//
// # Sweep
//
// Open loops over a grid: adapters, their popularity, the burstiness of arrivals,
// and rates as shares of what the first target does without adapters, measured
// first in the same run. Each point also tells how fair it was (Fairness).
//
// # Order
//
// Rounds alternate between targets and modes and turn their order around each
// time, so that drift of the machine hits all alike; ratios are taken round by
// round.
package bench
