#include "selective_scan/cuda/states_backward.cuh"
#include "selective_scan/cuda/states_forward.cuh"

template void ssm::launch_states_walk<c10::Half>(const StatesLaunch&, Walk);
template void ssm::launch_states_adjoint<c10::Half>(const StatesLaunch&, const SelectiveScanGradients&);
template void ssm::launch_states_backward<c10::Half>(const StatesLaunch&, const SelectiveScanGradients&);
