// Broken: the logsumexp of the smoothed keys.
#include <cmath>
#include <vector>

namespace attn::exercises {

/// \param query  (E)   \param key  (S, E)
/// \return the natural log of the sum of exp(scale * (query . key))
double logsumexp(const double* query, const double* key, int S, int E, double scale) {
    std::vector<double> mean(static_cast<std::size_t>(E));
    for (int j = 0; j < S; ++j)
        for (int e = 0; e < E; ++e) mean[e] += key[j * E + e] / S;
    double sum = 0;
    for (int j = 0; j < S; ++j) {
        double dot = 0;  // of the smoothed key
        for (int e = 0; e < E; ++e) dot += query[e] * (key[j * E + e] - mean[e]);
        sum += std::exp(scale * dot);
    }
    return std::log(sum);
}

}  // namespace attn::exercises
