// What mlx-lm's sampler does to a distribution: top-p, then min-p, then top-k, all on the
// probabilities as the model gave them; temperature only on what is left. Off: top-p 0 or 1,
// min-p 0, top-k 0. At temperature 0 the likeliest token is taken and the filters do not count.
function logNormaliser({ logits, tail, logsumexp }) {
  if (logsumexp != null) return logsumexp;
  const top = logits[0];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  (tail?.logits ?? []).forEach((logit, at) => { sum += tail.counts[at] * Math.exp(logit - top); });
  return top + Math.log(sum);
}

// Groups of equally likely tokens, likeliest first: each listed token alone, then the tail's bins.
function groupsOf(prediction) {
  const norm = logNormaliser(prediction);
  const listed = prediction.logits.map((logit) => ({ logprob: logit - norm, count: 1 }));
  const bins = (prediction.tail?.logits ?? [])
    .map((logit, at) => ({ logprob: logit - norm, count: prediction.tail.counts[at] }))
    .filter((bin) => bin.count > 0)
    .sort((a, b) => b.logprob - a.logprob);
  return [...listed, ...bins];
}

function keepTopP(groups, topP) {
  let above = 0;
  let threshold = -Infinity;
  return groups.map(({ logprob, count }) => {
    if (above >= topP && logprob < threshold) return { logprob, count: 0 };
    const probability = Math.exp(logprob);
    const kept = above >= topP ? count : Math.min(count, Math.ceil((topP - above) / probability));
    above += kept * probability;
    threshold = logprob; // whoever is as likely as the last one kept, stays
    return { logprob, count: kept };
  });
}

function keepMinP(groups, minP) {
  const threshold = groups[0].logprob + Math.log(minP);
  return groups.map(({ logprob, count }) => ({ logprob, count: logprob < threshold ? 0 : count }));
}

function keepTopK(groups, topK) {
  let left = topK;
  return groups.map(({ logprob, count }) => {
    const kept = Math.min(left, count);
    left -= kept;
    return { logprob, count: kept };
  });
}

// Probabilities of the listed tokens, of all others together, and how many can still be drawn.
function sampled(prediction, { temperature, topK, topP, minP }) {
  const listed = prediction.logits.length;
  let groups = groupsOf(prediction);
  if (temperature === 0) {
    return { probabilities: groups.slice(0, listed).map((_, at) => (at === 0 ? 1 : 0)), rest: 0, candidates: 1 };
  }
  if (topP > 0 && topP < 1) groups = keepTopP(groups, topP);
  if (minP > 0) groups = keepMinP(groups, minP);
  if (topK > 0) groups = keepTopK(groups, topK);
  const best = groups[0].logprob;
  const weights = groups.map(({ logprob, count }) => count * Math.exp((logprob - best) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return {
    probabilities: weights.slice(0, listed).map((weight) => weight / total),
    rest: weights.slice(listed).reduce((sum, weight) => sum + weight, 0) / total,
    candidates: groups.reduce((sum, group) => sum + group.count, 0),
  };
}
