#include "selective_scan/cuda/states_backward.cuh"
#include "selective_scan/cuda/states_forward.cuh"

template void ssm::launch_states_walk<float>(const StatesLaunch&, Walk);
template void ssm::launch_states_adjoint<float>(const StatesLaunch&, const SelectiveScanGradients&);
template void ssm::launch_states_backward<float>(const StatesLaunch&, const SelectiveScanGradients&);
