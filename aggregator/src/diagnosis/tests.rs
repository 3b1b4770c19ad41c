//! From live messages to incidents, second by second: the model is part of what is tested.

mod causes;
mod consequences;
mod harmless;
mod incidents;
mod properties;
mod scene;
mod trails;
