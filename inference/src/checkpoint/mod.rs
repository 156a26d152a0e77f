//! Files of a model, whatever their format: named tensors, configuration, vocabulary, chat template.
