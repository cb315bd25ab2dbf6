"""The methods, one family of papers per file: objectives, then estimators."""

# Names of the methods, and of their estimators in `skcc`; nothing slow is imported for them.
METHODS = {
    "contrastive": "ContrastiveClustering",
    "twin": "TwinContrastClustering",
    "iic": "IIC",
    "pica": "PICA",
    "adc": "ADC",
    "dac": "DAC",
    "ddc": "DDC",
    "dccm": "DCCM",
    "deepcluster": "DeepCluster",
    "jule": "JULE",
    "autoencoder": "AutoencoderClustering",
    "denoising": "DenoisingAutoencoderClustering",
    "variational": "VariationalAutoencoderClustering",
    "deconvolutional": "DeconvolutionalClustering",
    "dcgan": "DCGANClustering",
    "dec": "DEC",
}
