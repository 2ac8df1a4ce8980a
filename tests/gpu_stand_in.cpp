// A device that torch takes for a GPU of CUDA, and that computes on the CPU; gpu_stand_in.py builds and loads it.
//
// It refuses what a GPU refuses, and counts what costs time there. Every operator that the CPU has a kernel for becomes
// one of the device: its tensors are lent to the CPU's kernel, and what that returns is taken over.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/FakeGuardImpl.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>

namespace {
using at::Tensor;
using c10::DispatchKey;
using std::optional;
const c10::Device GPU(c10::DeviceType::CUDA, 0);

// ---- What is counted: how often each operator was launched, and how often the program waited for one ----------------

std::mutex counting;
c10::Dict<std::string, int64_t> launches, waits;
void count(const std::string& name, bool waited = false) {
  std::lock_guard<std::mutex> locked(counting);
  launches.insert_or_assign(name, launches.contains(name) ? launches.at(name) + 1 : 1);
  if (waited) waits.insert_or_assign(name, waits.contains(name) ? waits.at(name) + 1 : 1);
}

// ---- Memory: a CPU tensor's -----------------------------------------------------------------------------------------

std::atomic<int64_t> allocated{0}, peak{0}, limit{INT64_MAX};

c10::DataPtr taken_over(const Tensor& cpu) {
  struct Held { Tensor cpu; int64_t bytes; };
  const int64_t bytes = cpu.storage().allocator() ? cpu.storage().nbytes() : 0;  // 0: lent, so counted already
  if (bytes && allocated + bytes > limit)
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes, " bytes (stand-in).");
  peak = std::max<int64_t>(peak, allocated += bytes);
  auto free = [](void* held) { allocated -= static_cast<Held*>(held)->bytes; delete static_cast<Held*>(held); };
  return {cpu.storage().mutable_data(), new Held{cpu, bytes}, free, GPU};
}

Tensor sparse(const Tensor& like, DispatchKey key, Tensor (*moved)(const Tensor&)) {
  const auto* from = static_cast<at::SparseTensorImpl*>(like.unsafeGetTensorImpl());
  auto made = at::detail::make_tensor<at::SparseTensorImpl>(c10::DispatchKeySet(key), like.dtype());
  auto* to = static_cast<at::SparseTensorImpl*>(made.unsafeGetTensorImpl());
  to->raw_resize_(from->sparse_dim(), from->dense_dim(), like.sizes());
  to->set_indices_and_values_unsafe(moved(from->indices()), moved(from->values()));
  to->set_coalesced(from->coalesced());
  return made;
}

Tensor on_gpu(const Tensor& cpu) {
  if (!cpu.defined() || !cpu.is_cpu()) return cpu;
  if (cpu.is_sparse()) return sparse(cpu, DispatchKey::SparseCUDA, on_gpu);
  c10::Storage storage(c10::Storage::use_byte_size_t(), cpu.storage().nbytes(), taken_over(cpu));
  auto gpu = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKey::CUDA, cpu.dtype());
  gpu.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
  return gpu;
}

Tensor lent(const Tensor& gpu) {  // a CPU tensor of the same memory
  if (!gpu.is_cuda()) return gpu;
  if (gpu.is_sparse()) return sparse(gpu, DispatchKey::SparseCPU, lent);
  const auto options = gpu.options().device(at::kCPU);
  if (!gpu.numel()) return at::empty_strided(gpu.sizes(), gpu.strides(), options);  // the operator may resize it
  return at::from_blob(gpu.mutable_data_ptr(), gpu.sizes(), gpu.strides(), [s = gpu.storage()](void*) {}, options);
}

// ---- An operator ----------------------------------------------------------------------------------------------------

template <class Change>
void each_tensor(c10::IValue& value, Change change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (Tensor& tensor : tensors) tensor = change(tensor);
    value = tensors;
  } else if (value.isOptionalTensorList()) {
    c10::List<optional<Tensor>> tensors;
    for (optional<Tensor> tensor : value.toOptionalTensorList())
      tensors.push_back(tensor ? optional<Tensor>(change(*tensor)) : tensor);
    value = tensors;
  }
}

struct Draws {  // inside, torch's kernels draw from the device's own generator, which has to be seeded by itself
  inline static at::Generator own;
  static void exchange() { std::swap(const_cast<at::Generator&>(at::detail::getDefaultCPUGenerator()), own); }
  const bool wanted;
  explicit Draws(bool wanted = true) : wanted(wanted) { if (wanted) exchange(); }
  ~Draws() { if (wanted) exchange(); }
};

const std::set<std::string> NO_LAUNCH{
    "empty", "empty_strided", "resize_", "_sparse_coo_tensor_with_dims", "_sparse_coo_tensor_with_dims_and_tensors",
    "_indices", "_values", "indices", "values", "_nnz", "is_coalesced", "_coalesced_", "sparse_dim", "dense_dim"};

template <DispatchKey key>
void on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const std::string name = op.schema().name().substr(6);  // "aten::" is left out
  const size_t first = stack->size() - arguments.size();
  std::vector<std::pair<Tensor, Tensor>> given;  // what was lent, and whose it is
  bool gpu = false, elsewhere = false, scalar = false, cpu_index = false, mask = false;
  for (size_t i = first; i < stack->size(); i++) {
    c10::IValue& value = (*stack)[i];
    const bool index = value.isOptionalTensorList();  // of x[index]: a GPU takes the CPU's too
    const bool written = arguments[i - first].alias_info() && arguments[i - first].alias_info()->isWrite();
    each_tensor(value, [&](const Tensor& tensor) {
      if (!tensor.defined()) return tensor;
      mask |= index && (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte);
      if (!tensor.is_cuda()) return (index ? cpu_index : tensor.dim() || written ? elsewhere : scalar) = true, tensor;
      gpu = true;
      return given.emplace_back(lent(tensor), tensor).first;
    });
    TORCH_CHECK(!value.isGenerator(), "Expected a 'cuda' device type for generator but found 'cpu' in ", name);
    if (value.isDevice()) value = c10::Device(at::kCPU);
  }
  TORCH_CHECK(!elsewhere || !gpu, "Expected all tensors to be on the same device, but found cuda:0 and cpu in ", name);

  const bool looked_at = cpu_index || (mask && !scalar);  // a mask is counted, but not by x[mask] = 0
  const bool sized = name == "repeat_interleave" ? stack->back().isNone() : name != "index";
  const bool unknown = sized && op.hasTag(at::Tag::dynamic_output_shape);
  const bool told = op.hasTag(at::Tag::data_dependent_output) || name == "_coalesce";
  if (!NO_LAUNCH.count(name)) count(name, looked_at || unknown || told);

  optional<at::ScalarType> dtype;  // CUDA's softmax alone reads half precision and writes float32, and back
  if (arguments.back().name() == "half_to_float" && stack->back().toBool()) {
    (*stack)[first] = (*stack)[first].toTensor().to(at::kFloat);
    stack->back() = false;
  } else if (arguments.back().name() == "input_dtype") {
    dtype = stack->back().toScalarType();
    stack->back() = (*stack)[first].toTensor().scalar_type();
  }
  {
    Draws draws(op.hasTag(at::Tag::nondeterministic_seeded));
    op.redispatchBoxed(c10::DispatchKeySet(key), stack);
  }
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); i++)
    each_tensor((*stack)[i], [&](const Tensor& result) {
      auto found = std::find_if(given.begin(), given.end(), [&](auto& pair) { return pair.first.is_same(result); });
      if (found == given.end()) {
        if (name.rfind("empty", 0) == 0 && result.numel() && !result.is_sparse())
          std::memset(result.mutable_data_ptr(), 0xFF, result.storage().nbytes());  // NaN in every precision
        return on_gpu(dtype ? result.to(*dtype) : result);
      }
      if (result.is_sparse() || result.sizes() != found->second.sizes())  // changed, and not in its memory alone
        found->second.unsafeGetTensorImpl()->shallow_copy_from(on_gpu(result).getIntrusivePtr());
      return found->second;
    });
}

// ---- Operators of its own -------------------------------------------------------------------------------------------

Tensor view(const Tensor& x, c10::SymIntArrayRef sizes) { return at::native::view(x, C10_AS_INTARRAYREF_SLOW(sizes)); }

Tensor& copy(Tensor& to, const Tensor& from, bool non_blocking) {
  const bool up = from.is_cpu(), down = to.is_cpu();
  count(up ? "copy to the GPU" : down ? "copy to the CPU" : "copy_", down || (up && !non_blocking));
  lent(to).copy_(lent(from));
  return to;
}

// scaled_dot_product_attention: one launch, and one backwards, in float32. What the first leaves for the second is theirs
// alone: here the probabilities and the dropout's factors.
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
Tensor wide(const Tensor& x) { return lent(x).to(at::kFloat); }
double scale_of(const Tensor& q, optional<double> given) { return given.value_or(1 / std::sqrt(q.size(-1))); }

Four attend(const Tensor& q, const Tensor& k, const Tensor& v, const optional<Tensor>& bias, bool, double dropout,
            bool causal, optional<double> scale) {
  TORCH_CHECK(!causal, "The stand-in for a GPU has no causal attention.");
  count("attention");
  Draws draws;
  Tensor scores = wide(q).matmul(wide(k).mT()) * scale_of(q, scale);
  if (bias) scores = scores + wide(*bias);
  const Tensor p = scores.softmax(-1), keep = (at::rand(p.sizes()) >= dropout).to(at::kFloat) / (1 - dropout);
  const Tensor heads = (p * keep).matmul(wide(v)).to(q.scalar_type()).transpose(1, 2).contiguous();
  return {on_gpu(heads).transpose(1, 2), on_gpu(p), on_gpu(keep), Tensor()};
}
Four attend_backward(const Tensor& d_heads, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor&,
                     const Tensor&, const Tensor& left_p, const Tensor& left_keep, const Tensor&, double,
                     std::array<bool, 4>, bool, optional<double> scale) {
  count("attention backward");
  const Tensor p = lent(left_p), keep = lent(left_keep), d = wide(d_heads), dp = d.matmul(wide(v).mT()) * keep;
  const Tensor ds = p * (dp - (dp * p).sum(-1, true)) * scale_of(q, scale);
  auto narrow = [&](const Tensor& x) { return on_gpu(x.to(q.scalar_type())); };
  return {narrow(ds.matmul(wide(k))), narrow(ds.mT().matmul(wide(q))), narrow((p * keep).mT().matmul(d)), Tensor()};
}
int64_t choose_attention(const Tensor&, const Tensor&, const Tensor&, const optional<Tensor>&, double, bool,
                         optional<double>, bool) {
  return static_cast<int64_t>(at::SDPBackend::efficient_attention);
}

// ---- The device, as torch asks for it -------------------------------------------------------------------------------

using Guard = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)  // looked up by this name

template <DispatchKey key>
void lend_all(torch::Library& library, DispatchKey here) {  // _foreach_ operators too: one launch for a whole list
  for (const auto& op : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto handle = c10::Dispatcher::singleton().findOp(op);
    const bool each = key == DispatchKey::CPU && op.name.rfind("aten::_foreach_", 0) == 0;
    if (!handle || op.name.rfind("aten::", 0) != 0 || op.name == "aten::set_") continue;
    if (!(each || handle->hasKernelForDispatchKey(key)) || handle->hasKernelForDispatchKey(here)) continue;
    const std::string name = op.overload_name.empty() ? op.name : op.name + "." + op.overload_name;
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&on_cpu<key>>());
  }
}
}  // namespace

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("copy_", &copy);
  library.impl("view", &view);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
  library.impl("_scaled_dot_product_efficient_attention", &attend);
  library.impl("_scaled_dot_product_efficient_attention_backward", &attend_backward);
  lend_all<DispatchKey::CPU>(library, DispatchKey::CUDA);
}
TORCH_LIBRARY_IMPL(aten, SparseCUDA, library) { lend_all<DispatchKey::SparseCPU>(library, DispatchKey::SparseCUDA); }

TORCH_LIBRARY(gpu_stand_in, library) {
  library.def("launches", [] { return launches.copy(); });
  library.def("waits", [] { return waits.copy(); });
  library.def("forget", [] { launches.clear(), waits.clear(); });
  library.def("allocated", [] { return allocated.load(); });
  library.def("peak", [] { return peak.load(); });
  library.def("reset_peak", [] { peak = allocated.load(); });
  library.def("set_limit", [](int64_t bytes) { limit = bytes; });
  library.def("draw_from", [](at::Generator generator) { Draws::own = generator; });
}
