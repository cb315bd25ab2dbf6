"""Estimators by the names of their methods."""

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
