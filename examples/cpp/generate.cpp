// Generates text with a language model that examples/cpp/export.py has compiled:
//   generate FOLDER "the market" [WORDS] [ENGINE]
// FOLDER has model.pt2 and vocabulary.txt. ENGINE is fused_lstm's library, by default the installed
// one: loading it registers the operators that the model calls.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

std::vector<std::string> read_words(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word);) words.push_back(word);
  return words;
}

// The ids of a prompt's words; a word that the vocabulary lacks is "<unk>".
std::vector<int64_t> ids_of(const std::string& prompt, const std::vector<std::string>& words) {
  std::unordered_map<std::string, int64_t> ids;
  for (size_t id = 0; id < words.size(); ++id) ids[words[id]] = id;
  std::vector<int64_t> found;
  std::istringstream stream(prompt);
  for (std::string word; stream >> word;) {
    const auto at = ids.count(word) ? ids.find(word) : ids.find("<unk>");
    if (at == ids.end()) throw std::runtime_error("prompt: got '" + word + "'; expected known words");
    found.push_back(at->second);
  }
  if (found.empty()) throw std::runtime_error("prompt: got no word; expected at least one");
  return found;
}

void run(const std::string& folder, const std::string& prompt, int count, const char* engine) {
  if (!dlopen(engine, RTLD_NOW)) throw std::runtime_error(dlerror());
  const auto words = read_words(folder + "/vocabulary.txt");
  torch::inductor::AOTIModelPackageLoader model(folder + "/model.pt2");
  const auto sizes = model.get_metadata();
  const long layers = std::stol(sizes.at("layers")), hidden = std::stol(sizes.at("hidden"));

  c10::InferenceMode guard;
  torch::manual_seed(0);
  torch::Tensor inputs = torch::tensor(ids_of(prompt, words)).unsqueeze(1);  // [T, 1]
  torch::Tensor h = torch::zeros({layers, 1, hidden}), c = torch::zeros({layers, 1, hidden});
  std::cout << prompt;
  const auto begin = std::chrono::steady_clock::now();
  for (int n = 0; n < count; ++n) {
    const auto outputs = model.run({inputs, h, c});  // logits [T, 1, V], h, c
    const torch::Tensor likely = torch::softmax(outputs[0][-1][0], 0);
    inputs = torch::multinomial(likely, 1).unsqueeze(1);
    h = outputs[1];
    c = outputs[2];
    std::cout << ' ' << words.at(inputs.item<int64_t>());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::cout << "\n" << count / taken.count() << " words per second" << std::endl;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::cerr << "usage: generate FOLDER PROMPT [WORDS] [ENGINE]\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argc > 3 ? std::stoi(argv[3]) : 100, argc > 4 ? argv[4] : ENGINE);
  } catch (const std::exception& error) {
    std::cerr << "generate: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
