#include "selective_scan/cuda/states_backward.cuh"
#include "selective_scan/cuda/states_forward.cuh"

template void ssm::launch_states_walk<double>(const StatesLaunch&, Walk);
template void ssm::launch_states_adjoint<double>(const StatesLaunch&, const SelectiveScanGradients&);
template void ssm::launch_states_backward<double>(const StatesLaunch&, const SelectiveScanGradients&);
