// Hopper's own instructions (sm_90a): products of four warps, whose right factor lies in shared memory, and copies in
// one piece. One function an instruction. Only code for sm_90a has them, so that kernels which use them are compiled
// for it alone (setup.py) and hosts ask is_compiled_for first.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

#include "common/cuda/async_copy.cuh"
#include "common/cuda/fragments.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "compile this file for sm_90a: the host takes a kernel for 9.0 to have these instructions"
#endif

namespace ssm {

constexpr int kGroupThreads = 128;  // of a warpgroup: four warps, the first of which has a number that 4 divides
constexpr int kGroupRows = 64;      // of a product, 16 for each warp

// A factor in shared memory: cores of eight rows by 16 bytes, each 128 bytes in one piece, the rows in order. Cores
// that follow each other down the rows lie 128 bytes apart, and those that follow along the product's sum `along`
// bytes. The address and the strides are multiples of 16 bytes. The layout is the one without a swizzle.
constexpr int kCoreBytes = 128;
constexpr int kCoreRows = 8;

__device__ __forceinline__ uint64_t describe(uint32_t address, int along) {
  const uint64_t down = kCoreBytes >> 4;
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t(along >> 4) << 16 | down << 32;
}

// The factor so many bytes further.
__device__ __forceinline__ uint64_t advance(uint64_t described, int bytes) {
  return described + static_cast<unsigned>(bytes >> 4);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Orders what the warpgroup has done with registers before the products that use them next.
__device__ __forceinline__ void open_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes a group: all products since the last one.
__device__ __forceinline__ void close_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all groups but the last kOpen. Their registers may be used after settle().
template <int kOpen>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}

// Keeps the compiler from moving uses of a sum across this place.
template <int kCount>
__device__ __forceinline__ void settle(Result (&sum)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (float& value : sum[i].values) asm volatile("" : "+f"(value)::"memory");
  }
}

// Names registers for a sum that a product will write, without writing them.
template <int kCount>
__device__ __forceinline__ void unset(Result (&sum)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (float& value : sum[i].values) asm volatile("" : "=f"(value));
  }
}

// Writes a matrix of 16 × 16 numbers to shared memory, the other way of load_matrix.
__device__ __forceinline__ void keep_matrix(uint32_t row, const Factor& f) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(f.pairs[0]),
      "r"(f.pairs[1]), "r"(f.pairs[2]), "r"(f.pairs[3])
      : "memory");
}

// What this thread has written to shared memory becomes visible to products and bulk copies, after a barrier.
__device__ __forceinline__ void publish_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The threads of a warpgroup meet. `group` is its number in the block.
__device__ __forceinline__ void meet_group(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kGroupThreads) : "memory");
}

// Starts a copy of so many bytes, a multiple of 16, and counts them at a barrier when they have arrived.
__device__ __forceinline__ void copy_bulk(uint32_t to, const void* from, unsigned bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Adds 1 and returns what was there. What the warps that came before have read, they have read.
__device__ __forceinline__ unsigned count_one(uint32_t address) {
  unsigned before;
  asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], 1;" : "=r"(before) : "r"(address) : "memory");
  return before;
}

#define SSM_SUM4(i) "+f"(sum[i].values[0]), "+f"(sum[i].values[1]), "+f"(sum[i].values[2]), "+f"(sum[i].values[3])
#define SSM_SUM16(i) SSM_SUM4(i), SSM_SUM4(i + 1), SSM_SUM4(i + 2), SSM_SUM4(i + 3)
#define SSM_NAMES8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SSM_NAMES12 SSM_NAMES8 ", %8, %9, %10, %11"
#define SSM_NAMES16 SSM_NAMES12 ", %12, %13, %14, %15"
#define SSM_NAMES24 SSM_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define SSM_NAMES32 SSM_NAMES24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SSM_NAMES40 SSM_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define SSM_NAMES48 SSM_NAMES40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define SSM_SUMS8 SSM_SUM4(0), SSM_SUM4(1)
#define SSM_SUMS12 SSM_SUMS8, SSM_SUM4(2)
#define SSM_SUMS16 SSM_SUM16(0)
#define SSM_SUMS24 SSM_SUM16(0), SSM_SUM4(4), SSM_SUM4(5)
#define SSM_SUMS32 SSM_SUM16(0), SSM_SUM16(4)
#define SSM_SUMS40 SSM_SUM16(0), SSM_SUM16(4), SSM_SUM4(8), SSM_SUM4(9)
#define SSM_SUMS48 SSM_SUM16(0), SSM_SUM16(4), SSM_SUM16(8)

// One instruction: `columns` of the result in `count` registers, the names of the operands after them, and the last
// numbers of the instruction: whether factors in shared memory lie the other way round, which none does.
#define SSM_PRODUCT(columns, count, type, left, right, condition, turns, ...)                                     \
  asm volatile("{\n .reg .pred p;\n setp.ne.s32 p, " condition ", 0;\n wgmma.mma_async.sync.aligned.m64n" columns \
               "k16.f32." type "." type " {" SSM_NAMES##count "}, " left ", " right ", p, 1, 1, " turns ";\n}"    \
      : SSM_SUMS##count                                                                                           \
      : __VA_ARGS__)
#define SSM_PRODUCT_OF_REGISTERS(columns, count, left, right, condition)                                               \
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {                                                             \
    SSM_PRODUCT(columns, count, "bf16", left, right, condition, "0", "r"(a.pairs[0]), "r"(a.pairs[1]),                 \
        "r"(a.pairs[2]), "r"(a.pairs[3]), "l"(b), "r"(add));                                                           \
  } else {                                                                                                             \
    SSM_PRODUCT(columns, count, "f16", left, right, condition, "0", "r"(a.pairs[0]), "r"(a.pairs[1]), "r"(a.pairs[2]), \
        "r"(a.pairs[3]), "l"(b), "r"(add));                                                                            \
  }
#define SSM_PRODUCT_OF_MEMORY(columns, count, left, right, condition)                              \
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {                                         \
    SSM_PRODUCT(columns, count, "bf16", left, right, condition, "0, 0", "l"(a), "l"(b), "r"(add)); \
  } else {                                                                                         \
    SSM_PRODUCT(columns, count, "f16", left, right, condition, "0, 0", "l"(a), "l"(b), "r"(add));  \
  }

// Starts a product of 64 × 16 numbers in registers and 16 × 8 kCount in shared memory, and adds it to the sum, or
// writes it if `add` is 0. A warp has 16 rows of the left factor and of the sum, each as in fragments.cuh.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void start_product(Result (&sum)[kCount], const Factor& a, uint64_t b, int add) {
  static_assert(kCount == 2 || kCount == 3 || (kCount >= 4 && kCount <= 12 && kCount % 2 == 0));
  if constexpr (kCount == 2) {
    SSM_PRODUCT_OF_REGISTERS("16", 8, "{%8, %9, %10, %11}", "%12", "%13")
  } else if constexpr (kCount == 3) {
    SSM_PRODUCT_OF_REGISTERS("24", 12, "{%12, %13, %14, %15}", "%16", "%17")
  } else if constexpr (kCount == 4) {
    SSM_PRODUCT_OF_REGISTERS("32", 16, "{%16, %17, %18, %19}", "%20", "%21")
  } else if constexpr (kCount == 6) {
    SSM_PRODUCT_OF_REGISTERS("48", 24, "{%24, %25, %26, %27}", "%28", "%29")
  } else if constexpr (kCount == 8) {
    SSM_PRODUCT_OF_REGISTERS("64", 32, "{%32, %33, %34, %35}", "%36", "%37")
  } else if constexpr (kCount == 10) {
    SSM_PRODUCT_OF_REGISTERS("80", 40, "{%40, %41, %42, %43}", "%44", "%45")
  } else {
    SSM_PRODUCT_OF_REGISTERS("96", 48, "{%48, %49, %50, %51}", "%52", "%53")
  }
}

// The same with both factors in shared memory.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void start_product(Result (&sum)[kCount], uint64_t a, uint64_t b, int add) {
  static_assert(kCount == 4 || kCount == 6 || kCount == 8 || kCount == 12);
  if constexpr (kCount == 4) {
    SSM_PRODUCT_OF_MEMORY("32", 16, "%16", "%17", "%18")
  } else if constexpr (kCount == 6) {
    SSM_PRODUCT_OF_MEMORY("48", 24, "%24", "%25", "%26")
  } else if constexpr (kCount == 8) {
    SSM_PRODUCT_OF_MEMORY("64", 32, "%32", "%33", "%34")
  } else {
    SSM_PRODUCT_OF_MEMORY("96", 48, "%48", "%49", "%50")
  }
}

#endif

}  // namespace ssm
