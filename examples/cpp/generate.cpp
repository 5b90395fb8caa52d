// Generates text with a language model that lm.export has written for C++:
//   generate lm.pt2 "the market" [WORDS] [ENGINE]
// A file *.pt2 is a package of AOTInductor (lm.export --compile), any other one a TorchScript trace.
// ENGINE is fused_lstm's library, by default the installed one: loading it registers the operators
// that the model calls.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

using Tensors = std::vector<torch::Tensor>;

class Model {
 public:
  virtual ~Model() = default;
  // Words [T, B], h and c [L, B, sizes] -> logits [T, B, V], the next h and c.
  virtual Tensors run(const Tensors& inputs) = 0;
  // What lm.export has put into the file: "vocabulary", and of a state "layers" and the sizes "h", "c".
  virtual std::string about(const std::string& name) = 0;
};

class Package : public Model {
 public:
  explicit Package(const std::string& path) : loader_(path) {}
  Tensors run(const Tensors& inputs) override { return loader_.run(inputs); }
  std::string about(const std::string& name) override { return loader_.get_metadata().at(name); }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
};

class Trace : public Model {
 public:
  explicit Trace(const std::string& path) : module_(torch::jit::load(path, at::kCPU, files_)) {}
  Tensors run(const Tensors& inputs) override {
    const auto state = c10::ivalue::Tuple::create(inputs[1], inputs[2]);
    const auto outputs = module_.forward({inputs[0], state}).toTuple();
    const auto next = outputs->elements()[1].toTuple();
    return {outputs->elements()[0].toTensor(), next->elements()[0].toTensor(),
            next->elements()[1].toTensor()};
  }
  std::string about(const std::string& name) override { return files_.at(name); }

 private:
  torch::jit::ExtraFilesMap files_{{"layers", ""}, {"h", ""}, {"c", ""}, {"vocabulary", ""}};
  torch::jit::Module module_;  // after files_, which loading it fills
};

std::vector<std::string> split(const std::string& text, char end) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, end);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

// The ids of a prompt's words; a word that the vocabulary lacks is "<unk>".
std::vector<int64_t> ids_of(const std::string& prompt, const std::vector<std::string>& words) {
  std::unordered_map<std::string, int64_t> ids;
  for (size_t id = 0; id < words.size(); ++id) ids[words[id]] = id;
  std::vector<int64_t> found;
  for (const std::string& word : split(prompt, ' ')) {
    const auto at = ids.count(word) ? ids.find(word) : ids.find("<unk>");
    if (at == ids.end()) throw std::runtime_error("prompt: got '" + word + "'; expected known words");
    found.push_back(at->second);
  }
  if (found.empty()) throw std::runtime_error("prompt: got no word; expected at least one");
  return found;
}

void generate(Model& model, const std::string& prompt, int count) {
  const auto words = split(model.about("vocabulary"), '\n');
  const auto zeros = [&](const char* name) {
    return torch::zeros({std::stol(model.about("layers")), 1, std::stol(model.about(name))});
  };
  c10::InferenceMode guard;
  torch::manual_seed(0);
  torch::Tensor inputs = torch::tensor(ids_of(prompt, words)).unsqueeze(1);  // [T, 1]
  torch::Tensor h = zeros("h"), c = zeros("c");
  std::cout << prompt;
  std::chrono::steady_clock::time_point begin;
  for (int n = 0; n < count; ++n) {
    if (n == 1) begin = std::chrono::steady_clock::now();  // the first reads the prompt
    const Tensors outputs = model.run({inputs, h, c});
    const torch::Tensor likely = torch::softmax(outputs[0][-1][0], 0);
    inputs = torch::multinomial(likely, 1).unsqueeze(1);
    h = outputs[1];
    c = outputs[2];
    std::cout << ' ' << words.at(inputs.item<int64_t>());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::cout << std::endl;
  if (count > 1) std::cout << (count - 1) / taken.count() << " words per second" << std::endl;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::cerr << "usage: generate FILE PROMPT [WORDS] [ENGINE]\n";
    return 2;
  }
  try {
    const std::string path = argv[1];
    if (!dlopen(argc > 4 ? argv[4] : ENGINE, RTLD_NOW)) throw std::runtime_error(dlerror());
    std::unique_ptr<Model> model;
    if (path.ends_with(".pt2")) model = std::make_unique<Package>(path);
    else model = std::make_unique<Trace>(path);
    generate(*model, argv[2], argc > 3 ? std::stoi(argv[3]) : 100);
  } catch (const std::exception& error) {
    std::cerr << "generate: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
