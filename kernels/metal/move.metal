// move: the M-step, from sums to centroids. Needs common.
//
//   IN  sums        (B, K, D) float    in normalised coordinates
//       weight_sum  (B, K)    float
//       old         (B, K, D) float    centroids in the user's coordinates
//       shift       (B, D)    float    read only if FRAMED
//       scale       (B,)      float    read only if FRAMED; powers of two
//       active      (B,)      uint     0: this batch element is inactive
//   OUT c           (B, K, D) float    in the user's coordinates; equal to `old` if the batch
//                                      element is inactive, or the cluster has no weight or no
//                                      direction
//       normalised  (B, K, D) float    the same in normalised coordinates
//       bias        (B, K)    float    -||normalised||^2 / 2, or 0 if SPHERICAL
//       moved       (B, K)    float    ||c - old||^2, in units of scale^2 unless SPHERICAL, so that
//                                      squares stay inside float
//       still       (B, K)    uint     whether c is `old`
//   SPHERICAL: sum / ||sum||, else sum / weight_sum.
//   Grid: a simdgroup per (cluster, B).
//
// Quotients, norms and offsets are carried in two floats (Dekker, 1971), so that they round as the
// host's float64 does. A fit whose M-steps run partly on the host and partly here takes one path,
// but for last bits with chances of about 2^-24.

// A product fused with the sum that follows it would break them: these functions and all code below
// keep every operation as it is written.
#pragma METAL fp contract(off)

struct Twofold {
  float hi, lo;
};

METAL_FUNC Twofold two_sum(float a, float b) {
  const float sum = a + b, z = sum - a;
  return Twofold{sum, (a - (sum - z)) + (b - z)};
}

METAL_FUNC Twofold add(Twofold a, Twofold b) {
  const Twofold s = two_sum(a.hi, b.hi);
  return two_sum(s.hi, s.lo + (a.lo + b.lo));
}

METAL_FUNC Twofold square(float x) {
  const float hi = x * x;
  return Twofold{hi, fma(x, x, -hi)};
}

METAL_FUNC Twofold add_simdgroup(Twofold v) {
  for (ushort o = 1; o < 32; o *= 2)
    v = add(v, Twofold{simd_shuffle_xor(v.hi, o), simd_shuffle_xor(v.lo, o)});
  return v;
}

METAL_FUNC Twofold divide(float a, Twofold b) {
  const float q = a / b.hi;
  return Twofold{q, fma(-q, b.lo, fma(-q, b.hi, a)) / b.hi};
}

METAL_FUNC Twofold root(Twofold v) {
  const float h = sqrt(v.hi);
  return Twofold{h, (fma(-h, h, v.hi) + v.lo) / (2 * h)};
}

// A power of two not above x >= 0, for scaling without rounding; 1 for what has none.
METAL_FUNC float magnitude(float x) {
  const float power = as_type<float>(as_type<uint>(x) & 0x7F800000u);
  return power > 0 && power < INFINITY ? power : 1.0f;
}

template <bool SPHERICAL, bool FRAMED, typename PS, typename PW, typename PO, typename PH,
          typename PF, typename PA>
METAL_FUNC void move_centroid(
    PS sums, PW weight_sum, PO old, PH shift, PF scale, PA active, device float* c,
    device float* normalised, device float* bias, device float* moved, device uint* still, uint K,
    uint D, uint k, uint batch, uint lane) {
  const ulong cluster = ulong(batch) * K + k, base = cluster * D;
  float largest = 0.0f;
  Twofold size{weight_sum[cluster], 0.0f};
  if (SPHERICAL) {
    for (uint d = lane; d < D; d += 32) largest = max(largest, abs(float(sums[base + d])));
    largest = magnitude(simd_max(largest));
    Twofold total{0.0f, 0.0f};
    for (uint d = lane; d < D; d += 32) total = add(total, square(sums[base + d] / largest));
    total = add_simdgroup(total);
    size = total.hi > 0 ? root(total) : Twofold{0.0f, 0.0f};
  }
  const bool moves = active[batch] != 0 && weight_sum[cluster] > 0 && size.hi > 0;
  const float unit = FRAMED ? float(scale[batch]) : 1.0f;
  Twofold norm{0.0f, 0.0f};
  float far = 0.0f;
  bool rests = true;
  for (uint d = lane; d < D; d += 32) {
    const float before = old[base + d];
    const float origin = FRAMED ? float(shift[ulong(batch) * D + d]) : 0.0f;
    float value = before;
    if (moves) {
      const Twofold mean = divide(SPHERICAL ? sums[base + d] / largest : sums[base + d], size);
      const Twofold place = two_sum(origin, SPHERICAL ? mean.hi : mean.hi * unit);
      value = place.hi + (place.lo + (SPHERICAL ? mean.lo : mean.lo * unit));
    }
    const float own = SPHERICAL ? value : (value - origin) / unit;
    c[base + d] = value;
    normalised[base + d] = own;
    norm = add(norm, square(own));
    const float step = SPHERICAL ? value - before : (value - before) / unit;
    far = fma(step, step, far);
    rests = rests && value == before;
  }
  norm = add_simdgroup(norm);
  far = simd_sum(far);
  rests = simd_all(rests);
  if (lane == 0) {
    bias[cluster] = SPHERICAL ? 0.0f : -0.5f * (norm.hi + norm.lo);
    moved[cluster] = far;
    still[cluster] = rests;
  }
}
