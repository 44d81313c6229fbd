// The products by AVX2.

#if defined(__x86_64__)

#include "linear_kernels.h"

namespace linear {

const Kernels& avx2_kernels() { return portable_kernels(); }

}  // namespace linear

#endif
