// Neighbouring elements that one instruction reads or writes.
#pragma once

namespace ssm {

// Aligned to its size, as far as an instruction can go: 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount > 16 ? 16 : sizeof(T) * kCount) Pack {
  T value[kCount];
};

}  // namespace ssm
